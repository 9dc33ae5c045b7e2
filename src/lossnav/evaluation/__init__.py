"""The verb: evaluate an objective on a chart, at the points a sampler asks for, with an engine; get a surface."""
