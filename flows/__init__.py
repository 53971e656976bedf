"""Flows decide when and where; mmgen decides what. The only place that imports prefect."""
