package health

import (
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// confirmAgreed confirms the provisional findings that a second source agrees
// with, and reports whether there were any. It looks at all of them, since either
// of two may have come first.
func (e *Engine) confirmAgreed() (changed bool) {
	for _, r := range e.current {
		if r.State != fault.Bad || !r.Provisional || r.standing == unvouched {
			continue
		}
		for _, second := range e.current {
			if agrees(second, r) {
				r.Provisional = false
				changed = true
				break
			}
		}
	}
	return changed
}

// agrees reports whether second is the second source that r's confirmation asks for.
func agrees(second, r *record) bool {
	if second.key != r.key || second.State != fault.Bad || !second.outweighs(r) {
		return false
	}
	for _, k := range r.row.Confirm.Agree {
		if second.Kind == k && apart(second, r) <= r.row.Confirm.Window {
			return true
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

// explain sets for each finding which other one it is a consequence of. It
// reports whether any changed.
//
// A provisional cause explains only while its own confirmation can still come:
// otherwise a cause that is never confirmed would hide a fault that is.
func (e *Engine) explain(now time.Time) (changed bool) {
	for _, effect := range e.current {
		by := ""
		if cause := e.causeOf(effect, now); cause != nil && effect.State == fault.Bad {
			by = cause.ID
		}
		if effect.SubsumedBy != by {
			effect.SubsumedBy = by
			changed = true
		}
	}
	return changed
}

// causeOf gives the root among the findings that explain effect: the one that no
// other of them explains, the first by kind if there are several. Nil for none.
func (e *Engine) causeOf(effect *record, now time.Time) *record {
	var root *record
	for _, c := range e.current {
		if c.key != effect.key || !e.catalogue.Explains(c.Kind, effect.Kind) || !c.explains(effect, now) {
			continue
		}
		if root == nil || e.catalogue.Explains(c.Kind, root.Kind) || c.Kind < root.Kind && !e.catalogue.Explains(root.Kind, c.Kind) {
			root = c
		}
	}
	return root
}

func (r *record) explains(effect *record, now time.Time) bool {
	return r.State == fault.Bad && r.outweighs(effect) &&
		(!r.Provisional || now.Before(r.First.Add(r.row.Confirm.Window)))
}
