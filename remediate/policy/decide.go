package policy

import (
	"fmt"
	"slices"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Decision is what the policy says about one finding.
type Decision struct {
	Remedy fault.Action `json:"remedy"`
	Mode   Mode         `json:"mode"`
	// Rule is the name of the rule that matched, empty for none.
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason"`
}

// Decide applies the first rule that matches. The row is the finding's row of
// the catalogue, nil for a kind that the catalogue does not know: such a finding
// is observed.
func (p *Policy) Decide(f *fault.Finding, row *fault.Row) Decision {
	if row == nil {
		return Decision{Remedy: fault.None, Mode: Observe, Reason: fmt.Sprintf("kind %q is not in the catalogue", f.Kind)}
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if !r.Match.matches(f, row) {
			continue
		}
		d := Decision{Remedy: r.Remedy, Mode: r.Mode, Rule: r.Name, Reason: r.Reason}
		if f.Action == fault.ResetDevice && r.Remedy == fault.Reboot {
			d.Reason += "; the evidence asks for a device reset, for which there is no lever"
		}
		return d
	}
	return Decision{Remedy: fault.None, Mode: Observe, Reason: "no rule matches"}
}

func (m *Match) matches(f *fault.Finding, row *fault.Row) bool {
	return (len(m.Kinds) == 0 || slices.Contains(m.Kinds, f.Kind)) &&
		(len(m.Families) == 0 || slices.Contains(m.Families, row.Family)) &&
		(m.SeverityAtLeast == "" || f.Severity.Rank() >= m.SeverityAtLeast.Rank()) &&
		(len(m.Actions) == 0 || slices.Contains(m.Actions, string(f.Action)))
}
