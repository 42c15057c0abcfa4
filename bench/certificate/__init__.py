"""Do algorithms and suites compute what they claim?"""
