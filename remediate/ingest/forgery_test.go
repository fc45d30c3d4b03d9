package ingest

import (
	"testing"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// What only the remediator gathers cannot be reported by an agent; any other kind
// is a kind of the same severity away.
func TestAgentCannotReportWhatTheRemediatorGathers(t *testing.T) {
	for _, tc := range []struct {
		kind fault.Kind
		want int
	}{
		{fault.NodeSilent, 0},
		{fault.AgentSilent, 0},
		{fault.DiskReadOnly, 1},
	} {
		s, _ := newStore(t, Options{})
		accept(t, s, report(1, 1, finding(tc.kind, fault.Bad)))
		if got := len(s.Nodes()[0].Findings); got != tc.want {
			t.Errorf("%s in a report: %d findings held, want %d", tc.kind, got, tc.want)
		}
	}
}

func TestReportedEvidenceHasNoRemediatorsAuthority(t *testing.T) {
	for _, tc := range []struct {
		claimed fault.Authority
		want    bool
	}{
		{fault.ByRemediator, false},
		{fault.ByKernel, true},
	} {
		f := finding(fault.XidDoubleBitECC, fault.Bad)
		f.Evidence[0].Authority = tc.claimed
		s, _ := newStore(t, Options{})
		accept(t, s, report(1, 1, f))
		held := s.Nodes()[0].Findings[0]
		if ok, why := held.Authorises(); ok != tc.want {
			t.Errorf("evidence by %q authorises: %t (%s), want %t", tc.claimed, ok, why, tc.want)
		}
	}
}
