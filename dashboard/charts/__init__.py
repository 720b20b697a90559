"""Chart builders: a recorded ablation in, an Altair chart out. Pure functions.

Not here: Streamlit, files, figures that the run did not record.
"""
