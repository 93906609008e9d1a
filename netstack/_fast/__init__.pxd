# Marks the folder as a package for cimport; the declarations are in the .pxd of each module.
