"""Who asks over HTTP, and what that one may: keys, sign-in, origins, limits, and the log of it."""
