package correlate

import "fmt"

// Presence is what the cross-check of a rank's place came to.
type Presence struct {
	// Agreed is true if at least one source saw the rank and none contradicts the
	// post.
	Agreed bool
	// Disputed is true if a source saw the rank elsewhere.
	Disputed bool
	Reason   string
	// DeviceUUID is the device as the sources know it.
	DeviceUUID string
}

// Sighting is one source's word on where a rank of a job computes.
type Sighting struct {
	Source string
	Place  Place
}

// Sightings are places by job and rank.
type Sightings map[jobRank][]Sighting

type jobRank struct {
	job  string
	rank int
}

// Add adds sightings.
func (s Sightings) Add(all ...Sighting) {
	for _, one := range all {
		key := jobRank{one.Place.Job, one.Place.Rank}
		s[key] = append(s[key], one)
	}
}

// Reported gives what the agents' current reports say about the processes on
// their nodes.
func (w Witness) Reported() Sightings {
	seen := make(Sightings)
	if w.Nodes == nil {
		return seen
	}
	for i := range w.Nodes.Nodes {
		n := &w.Nodes.Nodes[i]
		if n.ReportAgeSeconds < 0 || n.ReportAgeSeconds > w.StaleAfter.Seconds() {
			continue
		}
		for _, p := range n.Jobs {
			if p.Rank != nil {
				seen.Add(Sighting{Source: "agent of " + n.Node, Place: Place{Job: p.Job, Rank: *p.Rank, Node: n.Node, DeviceUUID: p.DeviceUUID}})
			}
		}
	}
	return seen
}

// Locate checks the place that a post claims for a rank against the sightings
// of the same job and rank. A rank that nobody saw is not disputed, but not
// agreed either: evidence about the device is then not evidence about the rank.
func Locate(claim Place, sources ...Sightings) Presence {
	p := Presence{DeviceUUID: claim.DeviceUUID}
	if claim.Job == "" {
		p.Reason = "the post names no job, so no agent can confirm where the rank computes"
		return p
	}
	var seen []Sighting
	for _, source := range sources {
		seen = append(seen, source[jobRank{claim.Job, claim.Rank}]...)
	}
	for _, s := range seen {
		if s.Place.Node != claim.Node || p.DeviceUUID != "" && s.Place.DeviceUUID != "" && s.Place.DeviceUUID != p.DeviceUUID {
			return Presence{Disputed: true, Reason: fmt.Sprintf("the post puts rank %d on %s, the %s on %s", claim.Rank, where(claim), s.Source, where(s.Place))}
		}
		p.Agreed = true
		if p.DeviceUUID == "" {
			p.DeviceUUID = s.Place.DeviceUUID
		}
	}
	if !p.Agreed {
		p.Reason = fmt.Sprintf("no agent reports rank %d of job %s", claim.Rank, claim.Job)
	}
	return p
}

func where(p Place) string {
	if p.DeviceUUID == "" {
		return p.Node
	}
	return p.Node + " " + p.DeviceUUID
}
