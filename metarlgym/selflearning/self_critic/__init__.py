"""Self-critic: a model learns from the scores or targets of its own critic; when is that reward hacked?"""
