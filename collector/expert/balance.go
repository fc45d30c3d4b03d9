package expert

import "slices"

// Balance is how one window's work was spread. Load is in top-k assignments.
type Balance struct {
	Layers []Layer
	// Ranks are in the order of the post.
	Ranks []RankLoad
	// Hot are the hottest experts over all layers, hottest first.
	Hot []HotExpert
}

// Layer is the load of one layer over the ranks that hold any of its experts:
// with pipeline stages the others take no part in it.
type Layer struct {
	// Mean and Max are assignments per rank.
	Mean, Max float64
}

// Balancedness is mean over max, in (0, 1]: the share of the layer's time in
// which the average rank works. It is undefined for a layer without load; one
// rank alone is balanced.
func (l Layer) Balancedness() (float64, bool) {
	if l.Max <= 0 {
		return 0, false
	}
	return l.Mean / l.Max, true
}

// RankLoad is what one rank had to do, summed over its layers.
type RankLoad struct {
	Rank        int
	Assignments float64
	// Group numbers sets of ranks that share layers, from 0 in the order of the
	// post: the stages of a pipeline. Only ranks of one group are comparable.
	Group int
}

// HotExpert is one expert and its share of the assignments of its layer.
type HotExpert struct {
	Layer       int     `json:"layer"`
	Expert      int     `json:"expert"`
	Assignments int64   `json:"assignments"`
	Share       float64 `json:"share"`
	Ranks       []int32 `json:"ranks"`
}

// MeanOfRatios is the mean of the layers' balancedness, undefined without load.
// Each layer weighs the same, however much it had to do.
func (b *Balance) MeanOfRatios() (float64, bool) {
	sum, n := 0.0, 0
	for _, l := range b.Layers {
		if v, ok := l.Balancedness(); ok {
			sum += v
			n++
		}
	}
	if n == 0 {
		return 0, false
	}
	return sum / float64(n), true
}

// RatioOfSums is the sum of means over the sum of maxima, undefined without
// load. Layers run one after the other and each waits for its slowest rank, so
// this weighs by time and is the closer to the throughput lost.
func (b *Balance) RatioOfSums() (float64, bool) {
	mean, peak := 0.0, 0.0
	for _, l := range b.Layers {
		mean += l.Mean
		peak += l.Max
	}
	if peak <= 0 {
		return 0, false
	}
	return mean / peak, true
}

// Measure computes the balance of a valid post, with the hottest k experts.
func Measure(l *Load, k int) Balance {
	index := make(map[int32]int, len(l.Ranks))
	b := Balance{Layers: make([]Layer, len(l.Counts)), Ranks: make([]RankLoad, len(l.Ranks))}
	for i, r := range l.Ranks {
		index[int32(r.Rank)] = i
		b.Ranks[i].Rank = r.Rank
	}
	groups := newGroups(len(l.Ranks))
	load := make([]float64, len(l.Ranks))
	takesPart := make([]bool, len(l.Ranks))
	hot := hottest{k: k}
	for layer, counts := range l.Counts {
		clear(load)
		clear(takesPart)
		var total int64
		first := -1
		for e, n := range counts {
			total += n
			holders := l.Placement[layer][e]
			share := float64(n) / float64(len(holders))
			for _, rank := range holders {
				i := index[rank]
				load[i] += share
				if !takesPart[i] {
					takesPart[i] = true
					if first < 0 {
						first = i
					}
					groups.join(first, i)
				}
			}
		}
		b.Layers[layer] = summarise(load, takesPart, b.Ranks)
		hot.layer(layer, counts, total)
	}
	groups.number(b.Ranks)
	b.Hot = hot.experts
	for i := range b.Hot {
		h := &b.Hot[i]
		h.Ranks = l.Placement[h.Layer][h.Expert]
	}
	return b
}

// summarise gives the layer's mean and maximum and adds its load to the ranks.
func summarise(load []float64, takesPart []bool, ranks []RankLoad) Layer {
	var sum, peak float64
	n := 0
	for i, x := range load {
		if !takesPart[i] {
			continue
		}
		n++
		sum += x
		peak = max(peak, x)
		ranks[i].Assignments += x
	}
	if n == 0 {
		return Layer{}
	}
	// Rounding must not lift the mean over the maximum.
	return Layer{Mean: min(sum/float64(n), peak), Max: peak}
}

// hottest keeps the k experts with the greatest share of their layer; of equal
// ones the lower layer and expert.
type hottest struct {
	k       int
	experts []HotExpert
}

func (h *hottest) layer(layer int, counts []int64, total int64) {
	if total == 0 {
		return
	}
	for e, n := range counts {
		share := float64(n) / float64(total)
		if n == 0 || h.k <= 0 || len(h.experts) == h.k && share <= h.experts[h.k-1].Share {
			continue
		}
		at, _ := slices.BinarySearchFunc(h.experts, share, func(x HotExpert, share float64) int {
			if x.Share >= share {
				return -1
			}
			return 1
		})
		h.experts = slices.Insert(h.experts, at, HotExpert{Layer: layer, Expert: e, Assignments: n, Share: share})
		h.experts = h.experts[:min(len(h.experts), h.k)]
	}
}

// groups is a union-find over rank indices.
type groups []int

func newGroups(n int) groups {
	g := make(groups, n)
	for i := range g {
		g[i] = i
	}
	return g
}

func (g groups) find(i int) int {
	for g[i] != i {
		g[i] = g[g[i]]
		i = g[i]
	}
	return i
}

func (g groups) join(a, b int) { g[g.find(b)] = g.find(a) }

func (g groups) number(ranks []RankLoad) {
	numbers := make(map[int]int)
	for i := range ranks {
		root := g.find(i)
		if _, ok := numbers[root]; !ok {
			numbers[root] = len(numbers)
		}
		ranks[i].Group = numbers[root]
	}
}
