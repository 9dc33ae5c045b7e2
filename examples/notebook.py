"""The seed notebook, *Navigating Through Loss Space*, line for line in lossnav's words.

    python examples/notebook.py [--data-root DIR_OF_MNIST] [--digits]

Comments give the notebook's own lines. Without --digits it trains on MNIST (from DIR_OF_MNIST, else downloaded once).
"""

import argparse

import lossnav as ln

parser = argparse.ArgumentParser(description="The seed notebook in lossnav's words.")
parser.add_argument("--data-root", help="a folder with the four MNIST files")
parser.add_argument(
    "--digits", action="store_true", help="scikit-learn's digits instead of MNIST: seconds, no download"
)
options = parser.parse_args()

# imgs = MNIST.images(); tX = cat(float.(MNIST.images(:test)[1:1000])..., dims = 4)
data = ln.zoo.digits() if options.digits else ln.zoo.mnist(options.data_root)
tX, tY = data.test[0][:1000], data.test[1][:1000]

# m = Chain(Conv((2,2), 1=>16, relu), maxpool, Conv((2,2), 16=>8, relu), maxpool, Dense(288, 10), softmax)
m = ln.zoo.notebook_cnn(seed=0)

# @showprogress for i in 1:10; Flux.train!(loss, train, ADAM(params(m)), cb = throttle(accuracy, 5)); end
batch_size = 25 if options.digits else 1000
ln.zoo.train(m, data, passes=10, batch_size=batch_size, lr=1e-3, order="stored", progress=True)

# loss(x, y) = crossentropy(m(x), y); accuracy(x, y) = mean(onecold(m(x)) .== onecold(y))
objective = ln.Objective(m.eval(), "cross_entropy", (tX, tY), metrics=["accuracy"])
minimal = objective.params


def perturb(seed: int) -> ln.directions.Direction:
    """rand(Float32, size(weight)) for the two convolutions and the dense layer; biases stay."""
    (direction,) = ln.directions.random(objective, normalize=None, distribution="uniform", exclude=("bias",), seed=seed)
    return direction


# t = -2:0.1:2; perturbed1 = perturbweights(m, perturb(m), t); losses = [crossentropy(m(tX), tY) for p in perturbed1]
line = ln.RescaledLine(minimal, perturb(1))
losses = ln.evaluate(objective, line, ln.Grid(alpha=(-2, 2, 41)), store="line.zarr", overwrite=True, progress=True)

# plot(t, losses)
ln.plot.write("line", losses, "line.html", overwrite=True)

# θ0, θ1, θ2, θ3 = perturb(m), perturb(m), perturb(m), minimal; t = -1:0.1:1 (θ1 is drawn and never used)
theta0, theta2 = perturb(2), perturb(3)
# perturbed = pw_2d_bilinear(θ0, θ1, θ2, θ3, t); losses[i,j] = crossentropy(m(tX), tY)
bilinear = ln.RescaledBilinear(minimal, theta2, theta0)
grid = ln.Grid(alpha=(-1, 1, 21), beta=(-1, 1, 21))
losses = ln.evaluate(objective, bilinear, grid, store="bilinear.zarr", overwrite=True, progress=True)

# plot(surface(z = log10.(losses)))
ln.plot.write("surface", losses, "bilinear.html", log=True, overwrite=True)

# https://arxiv.org/abs/1712.09913: where the notebook points, a plane of filter-normalised directions
d1, d2 = ln.directions.random(objective, n=2, normalize="filter", seed=0)
plane = ln.Plane(minimal, d1, d2)
surface = ln.evaluate(objective, plane, grid, store="plane.zarr", overwrite=True, progress=True)
ln.plot.write("surface", surface, "plane.html", log=True, overwrite=True)

print(f"accuracy {objective.evaluate(minimal)['accuracy']:.3f}; open line.html, bilinear.html, plane.html")
