"""The resources as pydantic models; the CustomResourceDefinitions are generated from them."""
