// Package mutants is for tests alone: it asks of the proofs of walsvc's promises
// whether they would notice. Each patch in testdata/mutants plants one bug that
// has lost data somewhere, and names the promises that it breaks and the test
// that has to fail for it.
package mutants
