"""Is the student better than its base, by how much, and how sure is that?"""
