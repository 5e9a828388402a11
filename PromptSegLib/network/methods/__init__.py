"""The ways to steer a frozen body, one file each; a new way is a new file here (see :mod:`.method`)."""
