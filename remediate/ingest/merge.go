package ingest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// self is the source named in evidence that the receiver itself adds.
const self = "remediator"

// Bounds on what is held of one node beyond its newest report, so that a node
// that keeps inventing findings costs a bounded amount of memory.
const (
	maxUnconfirmed = 1024
	maxCleared     = 32
)

// merge gives the findings that hold after report, on top of those held before
// it. A finding that the report names is taken from the report. One that it
// does not name is never dropped for that: it is cleared if the report proves
// a new instance or a new boot and the finding's row allows that to clear it,
// stays as it is if it was cleared before, and becomes unknown otherwise.
//
// A finding of a kind that only the remediator gathers is left out, and evidence
// that claims the remediator's authority vouches for nothing: a report speaks for
// the node's agent alone.
//
// dropped counts the findings left out for that or because a bound was reached.
func merge(catalogue *fault.Catalogue, held []fault.Finding, heldInstance string, report *fault.NodeReport, now time.Time) (merged []fault.Finding, dropped int) {
	named := make(map[string]bool, len(report.Findings))
	merged = make([]fault.Finding, 0, len(report.Findings)+len(held))
	for _, f := range report.Findings {
		if row := catalogue.Row(f.Kind); row != nil && row.OnlyRemediator() {
			dropped++
			continue
		}
		named[f.ID] = true
		f.Evidence = disarm(f.Evidence)
		f.Simulated = f.Simulated || report.Simulated
		merged = append(merged, f)
	}
	var cleared, unconfirmed []fault.Finding
	for _, f := range held {
		if named[f.ID] {
			continue
		}
		f = outlive(catalogue.Row(f.Kind), f, heldInstance, report, now)
		if f.State == fault.OK {
			cleared = append(cleared, f)
		} else {
			unconfirmed = append(unconfirmed, f)
		}
	}
	cleared, droppedCleared := newest(cleared, maxCleared)
	unconfirmed, droppedUnconfirmed := newest(unconfirmed, maxUnconfirmed)
	merged = append(append(merged, unconfirmed...), cleared...)
	return merged, dropped + droppedCleared + droppedUnconfirmed
}

// disarm takes the remediator's authority from evidence that somebody else sent.
func disarm(evidence []fault.Evidence) []fault.Evidence {
	claims := func(e fault.Evidence) bool { return e.Authority == fault.ByRemediator }
	if !slices.ContainsFunc(evidence, claims) {
		return evidence
	}
	evidence = slices.Clone(evidence)
	for i := range evidence {
		if claims(evidence[i]) {
			evidence[i].Authority = fault.ByNobody
		}
	}
	return evidence
}

// outlive is what a finding becomes that report does not name.
func outlive(row *fault.Row, f fault.Finding, heldInstance string, report *fault.NodeReport, now time.Time) fault.Finding {
	if f.State == fault.OK {
		return f
	}
	instance := cmp.Or(f.Subject.InstanceID, heldInstance)
	switch {
	case instance != "" && report.InstanceID != "" && instance != report.InstanceID:
		// The machine is gone and its faults with it, whatever their kind.
		return clear(f, fault.ClearReplaced, fmt.Sprintf("instance %s took the place of %s", report.InstanceID, instance), report, now)
	case f.BootID != "" && f.BootID != report.BootID && row != nil && row.Cleared(fault.ClearReboot):
		return clear(f, fault.ClearReboot, fmt.Sprintf("boot %s followed %s", report.BootID, f.BootID), report, now)
	case f.State == fault.Unknown:
		return f
	}
	f.State = fault.Unknown
	f.Evidence = append(slices.Clip(f.Evidence), fault.Evidence{
		Source: self,
		Time:   now,
		BootID: report.BootID,
		Text:   "unconfirmed by the latest report, which does not name it; absence clears nothing",
	})
	return f
}

func clear(f fault.Finding, by fault.Clear, text string, report *fault.NodeReport, now time.Time) fault.Finding {
	f.State = fault.OK
	f.Last = now
	f.ClearedBy = &fault.Evidence{
		Source: self, Authority: fault.ByRemediator, Time: now, BootID: report.BootID, Text: fault.Clip(text), Clear: by,
	}
	return f
}

// newest keeps the limit findings that were last seen most recently.
func newest(findings []fault.Finding, limit int) (kept []fault.Finding, dropped int) {
	if len(findings) <= limit {
		return findings, 0
	}
	slices.SortStableFunc(findings, func(a, b fault.Finding) int { return b.Last.Compare(a.Last) })
	return findings[:limit], len(findings) - limit
}
