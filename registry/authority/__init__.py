"""The certificate authorities of a fleet, for connections to the broker: made on first use, kept in one folder."""
