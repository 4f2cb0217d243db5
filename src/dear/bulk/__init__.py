"""Jobs over leaves that processes of a Ray cluster work on."""
