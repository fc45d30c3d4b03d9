package health

import (
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// settle brings what findings mean for each other up to date: which are confirmed
// by a second source, and which are consequences of others. It reports whether
// any changed.
func (e *Engine) settle(now time.Time) (changed bool) {
	for _, together := range e.badBySubject() {
		for _, r := range together {
			if r.Provisional && r.standing > unvouched && r.agreed(together) {
				r.Provisional = false
				changed = true
			}
		}
		for _, effect := range together {
			by := ""
			if cause := e.causeOf(effect, together, now); cause != nil {
				by = cause.ID
			}
			if effect.SubsumedBy != by {
				effect.SubsumedBy = by
				changed = true
			}
		}
	}
	return changed
}

// badBySubject groups the active findings by the thing that they are about.
func (e *Engine) badBySubject() map[string][]*record {
	groups := make(map[string][]*record)
	for _, r := range e.current {
		if r.State == fault.Bad {
			groups[r.key] = append(groups[r.key], r)
		}
	}
	return groups
}

// agreed reports whether one of the findings on the same subject is the second
// source that r's confirmation asks for; either of the two may have come first.
func (r *record) agreed(together []*record) bool {
	c := r.row.Confirm
	for _, k := range c.Agree {
		for _, second := range together {
			if second.Kind == k && second.outweighs(r) && apart(second, r) <= c.Window {
				return true
			}
		}
	}
	return false
}

// apart is the time between the spans in which two findings were observed; 0 if they overlap.
func apart(a, b *record) time.Duration {
	return max(a.First.Sub(b.Last), b.First.Sub(a.Last), 0)
}

// outweighs reports whether r may confirm or explain other.
func (r *record) outweighs(other *record) bool {
	return r.standing > unvouched && r.standing >= other.standing
}

// causeOf gives the root among the findings that explain effect: the one that no
// other of them explains, the first by kind if there are several. Nil for none.
func (e *Engine) causeOf(effect *record, together []*record, now time.Time) *record {
	var root *record
	for _, c := range together {
		if !e.catalogue.Explains(c.Kind, effect.Kind) || !c.explains(effect, now) {
			continue
		}
		if root == nil || e.catalogue.Explains(c.Kind, root.Kind) || c.Kind < root.Kind && !e.catalogue.Explains(root.Kind, c.Kind) {
			root = c
		}
	}
	return root
}

// explains reports whether the evidence of r is good enough to explain effect. A
// provisional cause explains only while its own confirmation can still come:
// otherwise one that is never confirmed would hide a fault that is.
func (r *record) explains(effect *record, now time.Time) bool {
	return r.outweighs(effect) && (!r.Provisional || now.Before(r.First.Add(r.row.Confirm.Window)))
}
