"""What the host answers over HTTP, a file for each resource; every file holds a class whose methods are routes."""
