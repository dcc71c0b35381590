"""What people read of a build."""
