package incident

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/guard"
)

// maxOpening bounds how many incidents are journalled at the same time; the
// journal commits those that meet together.
const maxOpening = 64

// Observe takes the facts of one moment, opens incidents for what they call for,
// and wakes the open ones. It journals, and makes no call to the world.
func (c *Controller) Observe(ctx context.Context, facts Facts) error {
	c.observing.Lock()
	defer c.observing.Unlock()
	start := time.Now()
	defer func() { c.metrics.decision.Observe(time.Since(start).Seconds()) }()

	due, back, together := c.take(facts)
	var errs []error
	if err := c.rememberTogether(ctx, facts.Now, together); err != nil {
		errs = append(errs, err)
	}
	for _, t := range back {
		errs = append(errs, c.reopen(ctx, t, facts.Now))
	}
	errs = append(errs, c.openAll(ctx, due)...)
	c.wakeAll()
	return errors.Join(errs...)
}

// take makes the facts current. It gives the incidents to open, the closed ones
// whose node is back after all, and the families of faults that many nodes have
// at once.
func (c *Controller) take(facts Facts) (due []*Incident, back []*tracked, together map[fault.Family]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.factsAt = facts.Now
	c.facts = make(map[string]*NodeFacts, len(facts.Nodes))
	beginning := make(map[string]time.Time)
	var sightings []guard.Sighting
	for n := range facts.Nodes {
		nf := &facts.Nodes[n]
		c.facts[nf.Node] = nf
		for k := range nf.Findings {
			f := &nf.Findings[k]
			if f.State != fault.Bad || f.History {
				continue
			}
			since, known := c.beginning[f.ID]
			if !known {
				since = facts.Now
			}
			beginning[f.ID] = since
			if row := c.opts.Catalogue.Row(f.Kind); row != nil && f.SubsumedBy == "" && canHaveCommonCause(row) {
				sightings = append(sightings, guard.Sighting{Node: nf.Node, Family: row.Family, Since: since})
			}
		}
		if c.open[nf.Node] != nil {
			continue
		}
		if t := c.lateReturn(nf); t != nil {
			back = append(back, t)
			continue
		}
		if all := c.judge.candidates(nf, true); slices.ContainsFunc(all, func(c candidate) bool { return c.vouched }) {
			due = append(due, c.newIncident(nf, all, facts.Now))
		}
	}
	// Findings of open incidents keep their beginning while they are not mentioned.
	for _, t := range c.open {
		i := t.current()
		for n := range i.Findings {
			if since, known := c.beginning[i.Findings[n].ID]; known {
				beginning[i.Findings[n].ID] = since
			}
		}
	}
	c.beginning = beginning
	p := &c.opts.Policy
	return due, back, guard.FindTogether(sightings, p.Guards.CommonCause.Nodes, p.Timing.CommonCauseWindow)
}

// lateReturn gives the incident that was closed as failed and left the node
// isolated, if the node is well now as what the repair made of it; the caller
// holds mu. A healthy node must not stay out of service because it was slow.
func (c *Controller) lateReturn(nf *NodeFacts) *tracked {
	if nf.View == nil || nf.View.IsolationKey == "" || nf.State != fault.OK {
		return nil
	}
	t := c.leftBehind(nf.Node, nf.View.IsolationKey)
	if t == nil || t.current().Outcome != Failed || t.current().act() == nil {
		return nil
	}
	if back, _ := returned(t.current().act(), look{node: nf, current: true}); !back {
		return nil
	}
	return t
}

// reopen goes on with an incident that was closed as failed.
func (c *Controller) reopen(ctx context.Context, t *tracked, now time.Time) error {
	err := c.save(ctx, t, func(i *Incident) {
		i.Outcome, i.OutcomeReason, i.ClosedAt = "", "", time.Time{}
		i.enter(AwaitingReturn, now)
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.open[t.current().Node] = t
	c.mu.Unlock()
	c.log(t.current(), "incident reopened", "why", "the node came back after all")
	c.announce()
	return nil
}

// announce tells Run that there is an incident to drive.
func (c *Controller) announce() {
	select {
	case c.opened <- struct{}{}:
	default:
	}
}

// canHaveCommonCause is false for faults that say nothing about the node.
func canHaveCommonCause(row *fault.Row) bool {
	return row.Culprit == fault.Hardware || row.Culprit == fault.Environment
}

// rememberTogether keeps a common-cause hold across a restart. To spare the
// journal, a hold that lasts is written again only each quarter of the window.
func (c *Controller) rememberTogether(ctx context.Context, now time.Time, together map[fault.Family]int) error {
	due := false
	c.mu.Lock()
	for family, nodes := range together {
		last := c.control.Together[family]
		if now.Sub(last) >= c.opts.Policy.Timing.CommonCauseWindow/4 {
			due = true
		}
		if now.Sub(last) >= c.opts.Policy.Timing.CommonCauseWindow {
			c.opts.Logger.Warn("many nodes have faults of one family at once: held", "family", family, "nodes", nodes)
		}
		c.togetherSeen[family] = now
	}
	c.mu.Unlock()
	if !due {
		return nil
	}
	return c.saveControl(ctx, func(next *control) {
		for family := range together {
			next.Together[family] = now
		}
	})
}

// newIncident is the incident that a node's candidates call for.
func (c *Controller) newIncident(nf *NodeFacts, all []candidate, now time.Time) *Incident {
	first := &all[0]
	evidence := first.evidence(nf, true, now)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", c.opts.Cluster, nf.Node, now.UnixNano()))
	i := &Incident{
		ID:               "inc-" + hex.EncodeToString(sum[:5]),
		Cluster:          c.opts.Cluster,
		Node:             nf.Node,
		InstanceID:       evidence.InstanceID,
		BootID:           evidence.BootID,
		State:            Observed,
		PolicyVersion:    c.opts.Policy.Version,
		CatalogueVersion: fault.CatalogueVersion,
		Phases:           []Phase{{State: Observed, From: now}},
		OpenedAt:         now,
	}
	i.join(nf, all, now)
	i.decide(first, nf)
	return i
}

// openAll journals new incidents and hands them to Run.
func (c *Controller) openAll(ctx context.Context, due []*Incident) []error {
	errs := make([]error, len(due))
	slots := make(chan struct{}, maxOpening)
	var wg sync.WaitGroup
	for n, i := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[n] = c.openOne(ctx, i)
		})
	}
	wg.Wait()
	if len(due) > 0 {
		c.announce()
	}
	return errs
}

func (c *Controller) openOne(ctx context.Context, i *Incident) error {
	t := track(i, 0)
	if err := c.save(ctx, t, func(*Incident) {}); err != nil {
		return err
	}
	c.mu.Lock()
	c.incidents[i.ID] = t
	c.open[i.Node] = t
	c.mu.Unlock()
	c.log(i, "incident opened", "remedy", i.Decision.Remedy, "mode", i.Decision.Mode, "rule", i.Decision.Rule, "instance", i.InstanceID)
	return nil
}
