//! Programs that embed `polity`, each in `src/bin`: `demo`, which runs by default; `hello`, the smallest; `bench`, the
//! benchmarks. Each stands alone, so there is nothing in this library.
