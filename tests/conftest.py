"""Makes the modules beside this file, such as ``problems``, importable from every test."""
