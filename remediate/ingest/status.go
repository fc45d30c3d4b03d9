package ingest

import (
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Status sums up what is held about one node at a time. A report older than
// freshWithin is not current. The slices are shared: read only, but for appending.
func (n Node) Status(now time.Time, freshWithin time.Duration) fault.NodeStatus {
	r := n.Report
	age := now.Sub(n.Received)
	return fault.NodeStatus{
		Node:             r.Node,
		InstanceID:       r.InstanceID,
		BootID:           r.BootID,
		State:            Sum(n.Findings, r.Coverage, age <= freshWithin),
		ReportAgeSeconds: age.Seconds(),
		Simulated:        r.Simulated,
		Findings:         list(n.Findings),
		Coverage:         list(r.Coverage),
		Jobs:             list(r.Jobs),
	}
}

// list gives s without spare room, so that appending copies, and never nil, so
// that JSON shows an empty list.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return slices.Clip(s)
}

// Sum gives the state of a node from its findings and coverage: bad with any
// confirmed, unexplained finding of severity error or worse, also when the
// report is no longer current; unknown without a current report, with a source
// that should answer and does not, or with such a finding in doubt; ok
// otherwise.
func Sum(findings []fault.Finding, coverage []fault.Coverage, current bool) fault.State {
	state := fault.OK
	if !current {
		state = fault.Unknown
	}
	for i := range findings {
		f := &findings[i]
		if f.History || f.SubsumedBy != "" || f.Severity.Rank() < fault.Error.Rank() {
			continue
		}
		switch {
		case f.State == fault.Bad && !f.Provisional:
			return fault.Bad
		case f.State != fault.OK:
			state = fault.Unknown
		}
	}
	if slices.ContainsFunc(coverage, func(c fault.Coverage) bool { return c.State == fault.CoverageUnknown }) {
		state = fault.Unknown
	}
	return state
}
