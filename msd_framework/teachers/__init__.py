"""Teachers: what do you predict for these views of these examples?"""
