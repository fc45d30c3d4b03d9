package incident

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/guard"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// Facts is everything that is known about the cluster at one moment.
type Facts struct {
	Now   time.Time
	Nodes []NodeFacts
}

// NodeFacts is what is known about one node. The remediator's own findings
// (silence) are among its findings.
type NodeFacts struct {
	fault.NodeStatus
	// Fresh is true when the newest report arrived within timing.fresh_within, on
	// the receiver's clock.
	Fresh bool
	// View is the orchestrator's view, nil when it is not known.
	View *NodeView
}

// judge applies policy and catalogue to the facts of a node. It is pure.
type judge struct {
	policy    *policy.Policy
	catalogue *fault.Catalogue
}

// candidate is a bad finding that the policy has a remedy for.
type candidate struct {
	finding  *fault.Finding
	row      *fault.Row
	decision policy.Decision
	// vouched is true when somebody speaks for the finding now.
	vouched bool
	// standing is true when the finding may be acted upon now; why says what is
	// amiss otherwise.
	standing bool
	why      string
}

// candidates gives the node's bad findings that the policy has a remedy for,
// the one to act upon first: standing before not, then the strongest remedy.
func (j *judge) candidates(nf *NodeFacts, current bool) []candidate {
	var all []candidate
	for i := range nf.Findings {
		f := &nf.Findings[i]
		if f.State != fault.Bad || f.History {
			continue
		}
		row := j.catalogue.Row(f.Kind)
		c := candidate{finding: f, row: row, decision: j.policy.Decide(f, row)}
		if c.decision.Remedy == fault.None {
			continue
		}
		c.vouched, c.why = j.vouched(nf, row, current)
		if c.vouched {
			c.standing, c.why = f.Authorises()
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		if a.standing != b.standing {
			if a.standing {
				return -1
			}
			return 1
		}
		return cmp.Or(
			cmp.Compare(b.decision.Remedy.Rung(), a.decision.Remedy.Rung()),
			cmp.Compare(b.finding.Severity.Rank(), a.finding.Severity.Rank()),
		)
	})
	return all
}

// vouched reports whether somebody speaks for a bad finding now: a fresh report
// for the agent's findings; for silence the remediator itself, which no fresh
// report may contradict.
func (j *judge) vouched(nf *NodeFacts, row *fault.Row, current bool) (bool, string) {
	switch {
	case !current:
		return false, "the facts are outdated"
	case own(row) && nf.Fresh:
		return false, "a fresh report contradicts the silence"
	case !own(row) && !nf.Fresh:
		return false, "the node's newest report is outdated"
	}
	return true, ""
}

// own reports whether the remediator itself raises the kind.
func own(row *fault.Row) bool {
	return row != nil && slices.Equal(row.RaisedBy, []string{remediatorSource})
}

const remediatorSource = "remediator"

// cleared reports whether positive evidence ended a finding, and which. That a
// finding is not mentioned any more, or that a report is old, ends nothing.
func (j *judge) cleared(s *Snapshot, nf *NodeFacts, current bool) (bool, string) {
	row := j.catalogue.Row(s.Kind)
	if row == nil || !current || !nf.Fresh {
		return false, ""
	}
	instance, boot := s.Subject.InstanceID, s.BootID
	switch {
	case row.Cleared(fault.ClearReplaced) && instance != "" && nf.InstanceID != "" && nf.InstanceID != instance:
		return true, fmt.Sprintf("%s: the node is another instance, %s", s.Kind, nf.InstanceID)
	case row.Cleared(fault.ClearReboot) && boot != "" && nf.BootID != "" && nf.BootID != boot:
		return true, fmt.Sprintf("%s: the node was rebooted", s.Kind)
	case row.Cleared(fault.ClearReport) && own(row):
		return true, fmt.Sprintf("%s: the node reports again", s.Kind)
	}
	for i := range nf.Findings {
		f := &nf.Findings[i]
		if f.ID != s.ID || f.State != fault.OK || f.ClearedBy == nil {
			continue
		}
		if by := f.ClearedBy; row.Cleared(by.Clear) && !by.Time.Before(f.First) {
			return true, fmt.Sprintf("%s: %s (%s)", s.Kind, by.Clear, by.Source)
		}
	}
	return false, ""
}

// clear notes in the incident which of its findings were ended, and forgets that
// of one that is bad again. Agents and the receiver of their reports do not keep
// an ended finding for ever, so it is noted when it is seen.
func (j *judge) clear(i *Incident, nf *NodeFacts, current bool) (changed bool) {
	for n := range i.Findings {
		s := &i.Findings[n]
		ended := s.Ended
		if slices.ContainsFunc(nf.Findings, func(f fault.Finding) bool { return f.ID == s.ID && f.State == fault.Bad && !f.History }) {
			ended = ""
		} else if ok, why := j.cleared(s, nf, current); ok {
			ended = cmp.Or(ended, why)
		}
		if ended != s.Ended {
			s.Ended, changed = ended, true
		}
	}
	return changed
}

// healthy reports whether the node may be given back: its fresh report says ok,
// no source is silent, and the sources that condemned it answer again.
func (j *judge) healthy(i *Incident, nf *NodeFacts, current bool) (bool, string) {
	switch {
	case !current:
		return false, "the facts are outdated"
	case !nf.Fresh:
		return false, "the node's newest report is outdated"
	case nf.State != fault.OK:
		return false, fmt.Sprintf("the node's state is %s", nf.State)
	}
	for n := range nf.Findings {
		if f := &nf.Findings[n]; f.State == fault.Bad && !f.History {
			return false, fmt.Sprintf("%s is bad", f.Kind)
		}
	}
	covered := make(map[string]fault.CoverageState)
	for _, c := range nf.Coverage {
		if c.State == fault.CoverageUnknown {
			return false, fmt.Sprintf("source %s does not answer", c.Source)
		}
		covered[c.Source] = c.State
	}
	for n := range i.Findings {
		s := &i.Findings[n]
		if own(j.catalogue.Row(s.Kind)) {
			continue
		}
		for _, e := range s.Evidence {
			if e.Authority != fault.ByNobody && covered[e.Source] != fault.CoverageOK {
				return false, fmt.Sprintf("source %s, which condemned the node, does not answer", e.Source)
			}
		}
	}
	return true, ""
}

// evidence is the candidate as guards see it.
func (c *candidate) evidence(nf *NodeFacts, current bool, since time.Time) guard.Evidence {
	return guard.Evidence{
		Kind:       c.finding.Kind,
		Family:     c.row.Family,
		InstanceID: cmp.Or(c.finding.Subject.InstanceID, nf.InstanceID),
		BootID:     cmp.Or(c.finding.BootID, nf.BootID),
		Since:      since,
		Standing:   c.standing,
		Why:        c.why,
		Current:    current && (own(c.row) || nf.Fresh),
		Simulated:  c.finding.Simulated || nf.Simulated,
	}
}
