"""What a user of the module can do, without Qt."""
