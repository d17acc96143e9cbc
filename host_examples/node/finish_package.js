// Makes the package's entries for ESM of those for CommonJS that tsc has written to dist/: both
// then have the same classes, and share one plugin.

import { copyFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
writeFileSync("dist/package.json", '{ "type": "commonjs" }\n');
copyFileSync("lines.d.ts", "dist/lines.d.ts");
for (const entry of ["index", "mini-app"]) {
  const names = Object.keys(require(`./dist/${entry}.js`)).join(", ");
  writeFileSync(`dist/${entry}.d.mts`, `export * from "./${entry}.js";\n`);
  writeFileSync(
    `dist/${entry}.mjs`,
    `import commonjs from "./${entry}.js";\nexport const { ${names} } = commonjs;\n`,
  );
}
