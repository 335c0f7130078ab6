"""One family of encoders a file: voice, face, text, speech."""
