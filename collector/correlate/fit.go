package correlate

import (
	"cmp"
	"math"
	"slices"
)

// point is a rank's load over the group's mean and its time over the median.
type point struct{ load, time float64 }

func normalise(ranks []Rank, group []int) []point {
	times := make([]float64, len(group))
	mean := 0.0
	for k, i := range group {
		times[k] = ranks[i].Seconds
		mean += ranks[i].Load / float64(len(group))
	}
	typical := median(times)
	points := make([]point, len(group))
	for k, i := range group {
		points[k] = point{load: 1, time: ranks[i].Seconds / typical}
		if mean > 0 {
			points[k].load = ranks[i].Load / mean
		}
	}
	return points
}

const (
	// minLoadDistance is how far apart two loads must be, in units of the mean, for
	// their slope to say more about load than about noise.
	minLoadDistance = 0.05
	// minSpread is the least spread that residuals are credited with, relative to
	// the median time: repeated runs of one kernel on one GPU differ by about 1 %.
	minSpread = 0.01
	// madScale makes the MAD of normal noise its standard deviation.
	madScale = 1.4826
	// maxPartners bounds how many partners a rank is paired with, so that a group
	// of thousands costs n, not n².
	maxPartners = 16
)

// slopes holds the pairs of a group whose loads differ enough, for the fits
// that leave one rank out: a slow rank must not be judged by a line drawn
// through itself.
type slopes struct {
	points []point
	pairs  []pair // by slope
	// steepest is the slope of time in proportion to load.
	steepest float64
}

type pair struct {
	a, b  int
	slope float64
}

func newSlopes(points []point) *slopes {
	s := &slopes{points: points}
	n := len(points)
	loads := make([]float64, n)
	for i, p := range points {
		loads[i] = p.load
	}
	if typical := median(loads); typical > 0 {
		s.steepest = 1 / typical // the median time is 1
	}
	// Partners are taken at evenly spread distances; all of them in a small group.
	stride := max(1, (n-1)/maxPartners)
	for a := range n {
		for d := 1; d < n; d += stride {
			b := (a + d) % n
			if stride == 1 && b < a {
				continue
			}
			if dx := points[b].load - points[a].load; math.Abs(dx) >= minLoadDistance {
				s.pairs = append(s.pairs, pair{a, b, (points[b].time - points[a].time) / dx})
			}
		}
	}
	slices.SortFunc(s.pairs, func(p, q pair) int { return cmp.Compare(p.slope, q.slope) })
	return s
}

// nobody is the rank to leave out for a fit through all.
const nobody = -1

// line predicts time from load.
type line struct {
	slope, offset float64
	// spread is the scaled MAD of the residuals around it.
	spread float64
	fitted bool
}

func (l line) at(load float64) float64 { return l.offset + l.slope*load }

// without fits the line through all ranks but one (Theil-Sen: the median of the
// slopes of pairs, then the median offset). If too few of the peers' pairs
// differ in load, the slope is the greatest that is physical: time in
// proportion to load, the benefit of the doubt that a loaded rank gets.
func (s *slopes) without(k int) line {
	l := line{slope: s.steepest}
	slope, pairs := s.middleWithout(k)
	// A pair per peer is the least that outvotes one odd peer: it spoils its own
	// pairs only.
	if pairs >= max(len(s.points)-1, 3) {
		l.fitted = true
		// More tokens never take less time, and an offset is never negative.
		l.slope = min(max(slope, 0), s.steepest)
	}
	residuals := make([]float64, 0, len(s.points))
	for i, p := range s.points {
		if i != k {
			residuals = append(residuals, p.time-l.slope*p.load)
		}
	}
	l.offset = median(residuals)
	for i, r := range residuals {
		residuals[i] = math.Abs(r - l.offset)
	}
	l.spread = max(minSpread, madScale*median(residuals))
	return l
}

// middleWithout is the median slope of the pairs without rank k, and how many
// they are.
func (s *slopes) middleWithout(k int) (slope float64, pairs int) {
	for _, p := range s.pairs {
		if p.a != k && p.b != k {
			pairs++
		}
	}
	seen := 0
	for _, p := range s.pairs {
		if p.a == k || p.b == k {
			continue
		}
		if seen == (pairs-1)/2 {
			slope += p.slope / 2
		}
		if seen == pairs/2 {
			return slope + p.slope/2, pairs
		}
		seen++
	}
	return 0, 0
}

// median sorts v.
func median(v []float64) float64 {
	slices.Sort(v)
	return middle(v)
}

// middle is the median of sorted values.
func middle(v []float64) float64 {
	n := len(v)
	if n == 0 {
		return 0
	}
	if n%2 == 1 {
		return v[n/2]
	}
	return v[n/2-1]/2 + v[n/2]/2
}
