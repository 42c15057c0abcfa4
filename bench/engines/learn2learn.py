"""stub until the helper's file arrives"""
def meta_gradient(*a,**k): raise NotImplementedError
def trace(*a,**k): raise NotImplementedError
