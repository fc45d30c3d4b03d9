package simdevice

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// Judge says what one reading means for the health of the GPUs. It remembers what
// it needs of the readings before: which GPUs there were, and their link errors.
type Judge struct {
	known  map[string]GPU    // by UUID, as first seen
	errors map[string]uint64 // by UUID: sum over the links at the last reading
}

// NewJudge makes a judge that has seen no reading.
func NewJudge() *Judge { return &Judge{known: make(map[string]GPU), errors: make(map[string]uint64)} }

// Reading judges a reading that returned.
func (j *Judge) Reading(at time.Time, d *Document) []health.Observation {
	v := verdicts{at: at}
	present := make(map[string]bool, len(d.GPUs))
	for i := range d.GPUs {
		g := &d.GPUs[i]
		present[g.UUID] = true
		if _, ok := j.known[g.UUID]; !ok && len(j.known) < maxGPUs {
			j.known[g.UUID] = *g
		}
		if g.Lost {
			delete(j.errors, g.UUID)
			v.bad(fault.GPUMissing, g, "the driver says that the GPU is lost")
			continue
		}
		v.ok(fault.GPUMissing, g, "the driver lists the GPU")
		v.ok(fault.DriverHung, g, "the reading returned")
		v.ok(fault.XidMMUFault, g, "the GPU answers")
		j.temperature(&v, g)
		j.links(&v, g)
	}
	for _, g := range j.missing(present) {
		delete(j.errors, g.UUID)
		v.bad(fault.GPUMissing, &g, fmt.Sprintf("the driver lists %d GPUs, there were %d", len(d.GPUs), len(j.known)))
	}
	return v.out
}

// missing gives the GPUs that were there and are not, ordered by index.
func (j *Judge) missing(present map[string]bool) []GPU {
	var out []GPU
	for uuid, g := range j.known {
		if !present[uuid] {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b GPU) int { return a.Index - b.Index })
	return out
}

// Stuck judges a reading that did not return within the deadline. The link errors
// are forgotten: what happened meanwhile is not known.
func (j *Judge) Stuck(at time.Time, hung []GPU, deadline time.Duration) []health.Observation {
	v := verdicts{at: at}
	clear(j.errors)
	for i := range hung {
		v.bad(fault.DriverHung, &hung[i], fmt.Sprintf("the reading has not returned within %s", deadline))
	}
	return v.out
}

// temperature compares with the threshold at which the GPU itself slows down.
func (j *Judge) temperature(v *verdicts, g *GPU) {
	if g.Temperature == nil || g.SlowdownTemperature == nil || *g.SlowdownTemperature <= 0 {
		return
	}
	if *g.Temperature >= *g.SlowdownTemperature {
		v.bad(fault.GPUThermal, g, fmt.Sprintf("%g C, slows down at %g C", *g.Temperature, *g.SlowdownTemperature))
		return
	}
	v.ok(fault.GPUThermal, g, fmt.Sprintf("%g C, slows down at %g C", *g.Temperature, *g.SlowdownTemperature))
}

// links says that the links are well if all are up and none has new errors since
// the reading before. That they are not well is the kernel's to say.
func (j *Judge) links(v *verdicts, g *GPU) {
	if len(g.NVLinks) == 0 {
		return
	}
	var sum uint64
	var down []string
	for _, l := range g.NVLinks {
		sum += l.Errors
		if !l.Up {
			down = append(down, fmt.Sprint(l.Link))
		}
	}
	before, known := j.errors[g.UUID]
	j.errors[g.UUID] = sum
	switch {
	case len(down) > 0:
		v.unknown(fault.XidNVLink, g, "links down: "+strings.Join(down, ", "))
	case known && sum != before:
		v.unknown(fault.XidNVLink, g, fmt.Sprintf("link errors changed from %d to %d", before, sum))
	case known:
		v.ok(fault.XidNVLink, g, fmt.Sprintf("all %d links up, errors stay at %d", len(g.NVLinks), sum))
	}
}

// verdicts collects the observations of one reading.
type verdicts struct {
	at  time.Time
	out []health.Observation
}

func (v *verdicts) ok(k fault.Kind, g *GPU, text string) {
	v.add(k, g, fault.OK, text).Clear = fault.ClearReading
}

func (v *verdicts) bad(k fault.Kind, g *GPU, text string) { v.add(k, g, fault.Bad, text) }

func (v *verdicts) unknown(k fault.Kind, g *GPU, text string) { v.add(k, g, fault.Unknown, text) }

func (v *verdicts) add(k fault.Kind, g *GPU, state fault.State, text string) *health.Observation {
	v.out = append(v.out, health.Observation{
		Time: v.at, Source: SourceName, Kind: k, Subject: g.subject(), State: state, Simulated: true,
		Evidence: fault.Evidence{Authority: fault.ByDevice, Text: text},
	})
	return &v.out[len(v.out)-1]
}
