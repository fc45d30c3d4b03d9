// Package alerts holds the Prometheus rules that Evenkeel ships.
//
// The rules decide what a person is told and which aggregates dashboards share.
// They never decide what is done to a node: the remediator reads firing alerts
// as one view among several, and an alert alone destroys nothing. The package
// only hands the rules out; evaluating them is the business of a rule engine.
package alerts

import (
	"embed"
	"fmt"
)

// Files holds the rule files, one rule groups namespace each, under rules/.
//
//go:embed rules/*.yaml
var Files embed.FS

// rulesPath is the file that [Rules] returns.
const rulesPath = "rules/evenkeel.yaml"

// Rules returns the shipped rule file, byte for byte.
func Rules() []byte {
	content, err := Files.ReadFile(rulesPath)
	if err != nil {
		panic(fmt.Sprintf("embedded rule file: %v", err)) // a build without it is broken
	}
	return content
}
