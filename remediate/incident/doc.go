// Package incident takes one sick node at a time from the first finding to its
// return into service: it isolates the node, moves its job to a spare or holds it
// until the node is back, reboots or replaces the node once, and validates it.
//
// It decides the order of steps and what the world shows about a call whose
// answer was lost. Every step is journalled before it is taken and after, so that
// a controller that starts from the journal goes on where any earlier one
// stopped. It refuses to act on anything but a confirmed finding that the newest
// facts hold, a policy's rule, and the allow of every guard; on a machine other
// than the one that the evidence is about; and a second time on one machine. What
// is not known is waited for. What a person did is left as it is.
//
// The files: ports.go declares the world; facts.go judges evidence; observe.go
// opens incidents; drive.go runs them; phases.go, job.go and act.go hold what is
// done in each state.
//
// ports.go declares the world; facts.go judges evidence; observe.go opens
// incidents; drive.go runs them; phases.go, job.go and act.go hold what is done in
// each state; record.go is what the journal holds.
package incident
