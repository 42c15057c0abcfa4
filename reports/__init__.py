"""Records to pandas to tables; never imports torch."""
