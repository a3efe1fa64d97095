// Saved widgets draw themselves with the scripts and fonts of this site, found beside this file
const vendor = new URL("vendor/", document.currentScript.src).href;
// embed-amd.js defines these modules by name; the paths tell them where their fonts lie
const paths = { anywidget: vendor + "anywidget" };
for (const name of ["base", "controls", "html-manager"]) paths["@jupyter-widgets/" + name] = vendor + name;
require.config({ paths });
const manager = document.createElement("script");
manager.src = vendor + "embed-amd.js";
document.head.append(manager);
