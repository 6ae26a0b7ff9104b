"""L2, the semantic cache: paraphrases of an earlier request get its answer.

Excludes vector stores and embedders, which have packages of their own, and the comparison of texts, which is in
`forge_otel.text_matching`.
"""
