"""Named sets, one YAML file each: a kind and where its data is."""

from weft.registry import Registry

sets: Registry[object] = Registry("weft.tasks.sets", suffix=".yaml")
