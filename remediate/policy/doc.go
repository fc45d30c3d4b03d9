// Package policy decides what may be done about a finding: the remedy, and
// whether it is only observed, waits for approval, or is done at once.
//
// A [Policy] is one YAML file. Its rules are tried in order and the first that
// matches wins; a finding that no rule matches is observed. The package refuses
// a policy with an unknown key, kind, family or remedy, so that a typing error
// cannot turn into silence or into an action. It reads no clock and calls
// nothing.
package policy
