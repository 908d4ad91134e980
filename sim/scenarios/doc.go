// Package scenarios holds the scenario files that come with decaf, embedded in
// the binary: [Names] lists them, [Get] gives one's text. How to read such a file
// is package scenario's; how to play one is sim's.
package scenarios
