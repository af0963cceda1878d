"""What a Python program needs to talk to a registry. See docs/client.md.

`address` finds the registry and the token, `api` has the connection, `upload` and `download` move blobs, `versions`
names what is published, `errors` is what all of them raise. Nothing is imported here: httpx takes 150 ms.
"""
