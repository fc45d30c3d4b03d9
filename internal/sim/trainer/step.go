package trainer

import (
	"math"
	"slices"
)

// Optimiser constants; chosen so that the loss falls visibly over a few hundred
// steps.
const (
	learningRate = 0.05
	momentum     = 0.9
	biasRate     = 0.05 // change of a selection bias per step
)

// hotBonus decides the selection whatever the scores are.
const hotBonus = 1e6

// world holds the ranks and what they exchange within a step. Rank r feeds in
// tokens [r*perRank, (r+1)*perRank) and owns experts [r*owned, (r+1)*owned).
//
// All ranks run at the same time, each writes only what is its own, and sums
// over ranks are taken in the order of the ranks: the result does not depend on
// the schedule.
type world struct {
	m         *model
	seed      uint64
	ranks     int
	perRank   int
	owned     int
	teacher   []float32 // [dim][dim]
	causes    Causes
	busy      clocks
	counts    [][]int64 // [layer][expert] tokens in the current window
	pass      []passed  // of each layer
	target    []float32 // [tokens][dim]
	output    []float32 // [tokens][dim] of the last layer
	lossParts []float64 // of each rank
	gradient  []float32 // [tokens][dim] of the loss by the output of the current layer
	routerSum [][]float32
	expertSum []float32
}

// passed is what the forward pass of a layer leaves for the backward pass.
type passed struct {
	in      []float32       // [tokens][dim]
	chosen  [][topK]int     // experts of each token
	weights [][topK]float32 // of the chosen experts
	out     []float32       // [tokens][topK][dim] what the chosen experts answered
	back    []float32       // [tokens][topK][dim] gradient by the input, through each expert
	weigh   [][topK]float32 // gradient by the weights
}

func newWorld(c *Config, m *model) *world {
	ranks := len(c.Ranks)
	tokens := ranks * c.TokensPerRank
	w := &world{
		m: m, seed: c.Seed, ranks: ranks, perRank: c.TokensPerRank, owned: c.Experts / ranks,
		teacher:   normals(stream(c.Seed, streamTeacher, 0), c.Dim*c.Dim, 1/math.Sqrt(float64(c.Dim))),
		busy:      newClocks(ranks),
		counts:    make([][]int64, c.Layers),
		pass:      make([]passed, c.Layers),
		target:    make([]float32, tokens*c.Dim),
		output:    make([]float32, tokens*c.Dim),
		lossParts: make([]float64, ranks),
		gradient:  make([]float32, tokens*c.Dim),
		routerSum: make([][]float32, ranks),
		expertSum: make([]float32, len(m.layers[0].experts)),
	}
	for r := range w.routerSum {
		w.routerSum[r] = make([]float32, len(m.layers[0].router))
	}
	for l := range w.pass {
		w.counts[l] = make([]int64, c.Experts)
		w.pass[l] = passed{
			in:     make([]float32, tokens*c.Dim),
			chosen: make([][topK]int, tokens), weights: make([][topK]float32, tokens), weigh: make([][topK]float32, tokens),
			out: make([]float32, tokens*topK*c.Dim), back: make([]float32, tokens*topK*c.Dim),
		}
	}
	return w
}

// step trains one step and gives the mean squared error before it.
func (w *world) step(step int, causes Causes) float64 {
	w.causes = causes
	computed := slices.Clone(w.busy)
	w.each(func(r int) { w.feed(r, step) })
	copy(w.busy, computed) // loading data is not computing
	for l := range w.m.layers {
		w.each(func(r int) { w.route(r, l) })
		w.each(func(r int) { w.runExperts(r, l) })
		next := w.output
		if l+1 < len(w.m.layers) {
			next = w.pass[l+1].in
		}
		w.each(func(r int) { w.combine(r, l, next) })
	}
	w.each(func(r int) { w.compare(r) })
	for l := len(w.m.layers) - 1; l >= 0; l-- {
		w.each(func(r int) { w.backExperts(r, l) })
		w.each(func(r int) { w.backRoute(r, l) })
		w.update(l)
	}
	var loss float64
	for _, part := range w.lossParts { // all-reduce in the order of the ranks
		loss += part
	}
	return loss / float64(len(w.output))
}

// feed draws the tokens of a rank and what the teacher makes of them.
func (w *world) feed(r, step int) {
	dim := w.m.dim
	random := stream(w.seed, streamData, uint64(step)<<16|uint64(r))
	for t := r * w.perRank; t < (r+1)*w.perRank; t++ {
		x := row(w.pass[0].in, t, dim)
		for i := range x {
			x[i] = float32(random.NormFloat64())
		}
		y := row(w.target, t, dim)
		for i := range y {
			y[i] = float32(math.Tanh(float64(dot(row(w.teacher, i, dim), x))))
		}
	}
}

// route chooses the experts of a rank's tokens and their weights.
func (w *world) route(r, l int) {
	layer, p, dim := &w.m.layers[l], &w.pass[l], w.m.dim
	scores := make([]float32, w.m.experts)
	for t := r * w.perRank; t < (r+1)*w.perRank; t++ {
		for e := range scores {
			scores[e] = dot(row(layer.router, e, dim), row(p.in, t, dim))
		}
		p.chosen[t] = w.choose(l, t, scores)
		a, b := scores[p.chosen[t][0]], scores[p.chosen[t][1]]
		first := float32(1 / (1 + math.Exp(float64(b-a)))) // softmax over two
		p.weights[t] = [topK]float32{first, 1 - first}
	}
}

// choose gives the two experts with the highest biased scores.
func (w *world) choose(l, t int, scores []float32) [topK]int {
	bias := w.m.layers[l].bias
	best := [topK]int{-1, -1}
	var high [topK]float32
	for e, s := range scores {
		s += bias[e]
		if w.hot(l, t, e) {
			s += hotBonus
		}
		switch {
		case best[0] < 0 || s > high[0]:
			best, high = [topK]int{e, best[0]}, [topK]float32{s, high[0]}
		case best[1] < 0 || s > high[1]:
			best[1], high[1] = e, s
		}
	}
	return best
}

// hot reports whether the cause of the moment sends token t to expert e.
func (w *world) hot(l, t, e int) bool {
	return w.isHot(l, e) && float64(t%w.perRank) < w.causes.Hot.Share*float64(w.perRank)
}

func (w *world) isHot(l, e int) bool {
	h := w.causes.Hot
	return h != nil && e == h.Expert && (h.Layer < 0 || h.Layer == l)
}

// runExperts has a rank answer for all tokens that were routed to its experts.
func (w *world) runExperts(r, l int) {
	w.eachOwned(r, l, func(e, t, k int) {
		p, dim := &w.pass[l], w.m.dim
		matrix := row(w.m.layers[l].experts, e, dim*dim)
		out := row(p.out, t*topK+k, dim)
		for range w.times(r) {
			for i := range out {
				out[i] = dot(row(matrix, i, dim), row(p.in, t, dim))
			}
		}
	})
}

// times is how often a rank does its work: more than once on slow hardware.
func (w *world) times(r int) int { return max(1, w.causes.Slow[r]) }

// eachOwned calls f for every (expert, token, choice) of a rank's experts, in one
// order.
func (w *world) eachOwned(r, l int, f func(e, t, k int)) {
	low, high := r*w.owned, (r+1)*w.owned
	for e := low; e < high; e++ {
		for t, chosen := range w.pass[l].chosen {
			for k, c := range chosen {
				if c == e {
					f(e, t, k)
				}
			}
		}
	}
}

// combine adds the weighted answers to a rank's tokens.
func (w *world) combine(r, l int, next []float32) {
	p, dim := &w.pass[l], w.m.dim
	for t := r * w.perRank; t < (r+1)*w.perRank; t++ {
		in, to := row(p.in, t, dim), row(next, t, dim)
		a, b := row(p.out, t*topK, dim), row(p.out, t*topK+1, dim)
		for i := range to {
			to[i] = in[i] + p.weights[t][0]*a[i] + p.weights[t][1]*b[i]
		}
	}
}

// compare takes a rank's part of the loss and starts the backward pass.
func (w *world) compare(r int) {
	from, to := r*w.perRank*w.m.dim, (r+1)*w.perRank*w.m.dim
	scale := 2 / float32(len(w.output)/w.m.dim)
	var loss float64
	for i := from; i < to; i++ {
		d := w.output[i] - w.target[i]
		loss += float64(d) * float64(d)
		w.gradient[i] = scale * d
	}
	w.lossParts[r] = loss
}

// backExperts computes the gradients by a rank's experts and through them.
func (w *world) backExperts(r, l int) {
	p, dim := &w.pass[l], w.m.dim
	size := dim * dim
	clear(w.expertSum[r*w.owned*size : (r+1)*w.owned*size])
	w.eachOwned(r, l, func(e, t, k int) {
		matrix, sum := row(w.m.layers[l].experts, e, size), row(w.expertSum, e, size)
		in, grad, back := row(p.in, t, dim), row(w.gradient, t, dim), row(p.back, t*topK+k, dim)
		for range w.times(r) {
			clear(back)
			for i := range grad {
				addScaled(back, p.weights[t][k]*grad[i], row(matrix, i, dim))
			}
		}
		for i := range grad {
			addScaled(row(sum, i, dim), p.weights[t][k]*grad[i], in)
		}
		p.weigh[t][k] = dot(grad, row(p.out, t*topK+k, dim))
	})
}

// backRoute computes a rank's part of the gradient by the router, and the
// gradient by the input of the layer.
func (w *world) backRoute(r, l int) {
	p, dim := &w.pass[l], w.m.dim
	sum := w.routerSum[r]
	clear(sum)
	for t := r * w.perRank; t < (r+1)*w.perRank; t++ {
		in, grad := row(p.in, t, dim), row(w.gradient, t, dim)
		g := p.weights[t]
		byScore := g[0] * g[1] * (p.weigh[t][0] - p.weigh[t][1])
		for k, sign := range [topK]float32{1, -1} {
			e := p.chosen[t][k]
			addScaled(grad, 1, row(p.back, t*topK+k, dim))
			addScaled(grad, sign*byScore, row(w.m.layers[l].router, e, dim))
			addScaled(row(sum, e, dim), sign*byScore, in)
		}
	}
}

// update applies the gradients of a layer: the router's after an all-reduce,
// the experts' where they are.
func (w *world) update(l int) {
	layer := &w.m.layers[l]
	total := w.routerSum[0]
	for _, part := range w.routerSum[1:] {
		addScaled(total, 1, part)
	}
	descend(layer.router, layer.routerMomentum, total)
	w.each(func(r int) {
		part := func(x []float32) []float32 { return row(x, r, len(x)/w.ranks) }
		descend(part(layer.experts), part(layer.expertMomentum), part(w.expertSum))
	})
	w.balance(l)
}

func descend(parameters, velocity, gradient []float32) {
	for i, g := range gradient {
		velocity[i] = momentum*velocity[i] + g
		parameters[i] -= learningRate * velocity[i]
	}
}

// balance counts the load of each expert and moves the selection biases against
// it. A hot expert is left out: it is the data's doing, and the others share
// what is left evenly.
func (w *world) balance(l int) {
	load := make([]int64, w.m.experts)
	for _, chosen := range w.pass[l].chosen {
		for _, e := range chosen {
			load[e]++
		}
	}
	var total, balanced int64
	for e, n := range load {
		if !w.isHot(l, e) {
			total += n
			balanced++
		}
	}
	for e, n := range load {
		w.counts[l][e] += n
		switch bias := &w.m.layers[l].bias[e]; {
		case w.isHot(l, e):
		case n*balanced > total:
			*bias -= biasRate
		case n*balanced < total:
			*bias += biasRate
		}
	}
}

// row is row i of a matrix with n columns.
func row(matrix []float32, i, n int) []float32 { return matrix[i*n : (i+1)*n : (i+1)*n] }

func dot(a, b []float32) float32 {
	var sum float32
	for i, x := range a {
		sum += x * b[i]
	}
	return sum
}

// addScaled adds scale*x to a.
func addScaled(a []float32, scale float32, x []float32) {
	for i := range a {
		a[i] += scale * x[i]
	}
}
