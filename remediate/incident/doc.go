// Package incident is the remediator's memory and hand: one incident per node
// that something is wrong with, opened from facts, judged by policy and guards,
// journalled before and after every call to the world, and driven to its end
// across crashes.
//
// It decides what is done next, and what a call whose outcome is not known came
// to, by reading the world after its known lag. It refuses to act on facts that
// are not current, to call twice where the first call may have taken effect, to
// touch what it did not do itself, and to go on without its journal.
package incident
