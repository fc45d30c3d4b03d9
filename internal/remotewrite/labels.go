package remotewrite

import (
	"cmp"
	"slices"
)

type label struct{ name, value string }

// labels collects the labels of one series; the first to name a label wins.
type labels []label

func newLabels(metric string) labels { return labels{{"__name__", metric}} }

func (l *labels) add(name, value string) {
	if value == "" || slices.ContainsFunc(*l, func(have label) bool { return have.name == name }) {
		return
	}
	*l = append(*l, label{name, value})
}

func (l labels) sorted() []label {
	slices.SortFunc(l, func(a, b label) int { return cmp.Compare(a.name, b.name) })
	return l
}
