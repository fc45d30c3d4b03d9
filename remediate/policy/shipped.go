package policy

import (
	"embed"
	"fmt"
)

//go:embed policies/observe.yaml policies/hands-off.yaml
var shipped embed.FS

// The names of the shipped policies.
const (
	// NameObserve does nothing and says what it would have done. It is the default.
	NameObserve = "observe"
	// NameHandsOff waits for nobody.
	NameHandsOff = "hands-off"
)

// Shipped gives a policy that comes with Evenkeel.
func Shipped(name string) (Policy, error) {
	content, err := ShippedFile(name)
	if err != nil {
		return Policy{}, err
	}
	p, err := Decode(content)
	if err != nil {
		return Policy{}, fmt.Errorf("shipped policy %s: %w", name, err)
	}
	return p, nil
}

// ShippedFile gives the YAML of a shipped policy.
func ShippedFile(name string) ([]byte, error) {
	content, err := shipped.ReadFile("policies/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("no shipped policy %q: there are %s and %s", name, NameObserve, NameHandsOff)
	}
	return content, nil
}
