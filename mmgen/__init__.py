"""mmgen: from raw text-image-audio pairs to a registered any-to-any generator."""
