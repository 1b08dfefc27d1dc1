"""How salient each modality is to a trained teacher: scores, their statistics, and the page that shows them."""
