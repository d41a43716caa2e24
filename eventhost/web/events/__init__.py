"""Events over HTTP: read, watched and published, in every form in which they come and go."""
