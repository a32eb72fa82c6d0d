"""What people do with tracks: each file one job, made of the parts of the package."""
