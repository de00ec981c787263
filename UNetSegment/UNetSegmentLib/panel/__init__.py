"""What the panel shows. :mod:`state` decides in plain Python; :mod:`binding` puts it into Qt widgets."""
