package ingest

import (
	"slices"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// sameForDecisions reports whether a newer report leaves nothing to decide: a
// steady node's heartbeat, also one that renews a finding it had before. What
// changes with time alone is looked at by the clock, not by this.
func sameForDecisions(before, after Node) bool {
	a, b := before.Report, after.Report
	return a.InstanceID == b.InstanceID && a.BootID == b.BootID && a.Simulated == b.Simulated &&
		slices.EqualFunc(before.Findings, after.Findings, sameFinding) &&
		slices.EqualFunc(a.Coverage, b.Coverage, sameCoverage) &&
		slices.EqualFunc(a.Jobs, b.Jobs, sameProcess)
}

func sameFinding(a, b fault.Finding) bool {
	return a.ID == b.ID && a.State == b.State && a.Severity == b.Severity && a.Action == b.Action &&
		a.Provisional == b.Provisional && a.History == b.History && a.Simulated == b.Simulated && a.SubsumedBy == b.SubsumedBy &&
		len(a.Evidence) == len(b.Evidence)
}

func sameCoverage(a, b fault.Coverage) bool { return a.Source == b.Source && a.State == b.State }

func sameProcess(a, b fault.Process) bool {
	return a.Job == b.Job && a.PID == b.PID && a.DeviceUUID == b.DeviceUUID && equal(a.Rank, b.Rank)
}

func equal(a, b *int) bool { return a == b || a != nil && b != nil && *a == *b }
