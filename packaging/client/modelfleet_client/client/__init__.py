"""In the package `registry` its HTTP client stands here, too."""
