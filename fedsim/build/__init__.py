"""Where all registries meet: a scenario file becomes checked values, and its names become plug-ins."""
