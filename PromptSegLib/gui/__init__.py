"""The module's panel: binds the session to widgets; the only room that imports qt or ctk."""
